"""One module per command: each joins the shell modules and the pure core, and talks through Ui."""
