"""What people meet: parameters, reports of gaps, runbooks, widgets and the terminal."""
