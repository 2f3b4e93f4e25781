"""What runs inside the sandbox: standard library only, sent there as source over a socket."""
