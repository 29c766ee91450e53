"""The MongoDB engine: change stream in, multi-document transactions out."""
