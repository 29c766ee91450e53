CREATE TABLE orders (
    id      bigint PRIMARY KEY,
    name    varchar(100) NOT NULL,
    qty     integer NOT NULL DEFAULT 1,
    changed timestamptz NOT NULL DEFAULT now()
);
