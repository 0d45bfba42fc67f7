"""The transport through SES, against the simulator and against raw sockets."""
