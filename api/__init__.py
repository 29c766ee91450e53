"""The HTTP interface of a running group: FastAPI on Ray Serve.

    request ─▶ headers ─▶ size ─▶ rate of the address ─▶ token ─▶ rate of the subject ─▶ role ─▶ route
                                                                                            └─▶ cluster

Routes do nothing of their own: they call what the commands call. `app.create_app` builds the application from
a `Backend`, so tests run it in their own process; `serving` runs it on Ray.
"""
