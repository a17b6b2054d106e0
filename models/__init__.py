"""Published methods, one paper a file, in families."""
