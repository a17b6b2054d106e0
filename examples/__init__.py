"""One runnable reproduction a paper, over a small shared harness and data that ships in packages."""
