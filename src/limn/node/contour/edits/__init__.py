"""Structure sets that came back: each compared with what limn drew, in a process of its own."""
