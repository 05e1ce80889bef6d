"""Who may use the board: accounts, sign-in, sessions."""
