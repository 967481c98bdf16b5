"""ctkit makes a Delta Lake table of Certificate Transparency entries complete, and proves it."""
