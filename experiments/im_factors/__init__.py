"""What decides whether instruction modelling helps: length ratio and number of examples."""
