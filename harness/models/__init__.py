"""Who is asked: the model protocol, the table of models, and one module a backend."""
