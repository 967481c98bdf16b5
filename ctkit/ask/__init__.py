"""Questions of analysts: tables typed for people, and names found by an index."""
