"""gunicorn with sync workers: each one serves one request at a time and closes its connection."""

import os

bind = "127.0.0.1:" + os.environ.get("PORT", "25200")
workers = int(os.environ.get("WORKERS", "2"))
worker_class = "sync"
control_socket_disable = True  # it would leave a socket in the home folder


def post_fork(server, worker):
    import service
    service.post_fork(server, worker)
