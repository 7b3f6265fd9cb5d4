"""Runs a shell command in a guest through its agent: guest_exec.py DOMAIN COMMAND.

Prints what the command prints and exits as it does; 125 if the agent does not play along.
"""

import base64
import json
import subprocess
import sys
import time


def agent(command, arguments):
    question = json.dumps({"execute": command, "arguments": arguments})
    line = ["virsh", "-q", "qemu-agent-command", "--timeout", "120", sys.argv[1], question]
    ran = subprocess.run(line, capture_output=True, text=True)
    if ran.returncode:
        print("lab: error: " + ran.stderr.strip(), file=sys.stderr)
        sys.exit(125)
    return json.loads(ran.stdout)["return"]


def text(field):
    return base64.b64decode(status.get(field, "")).decode(errors="replace")


shell = {"path": "/bin/sh", "arg": ["-c", sys.argv[2]], "capture-output": True}
pid = agent("guest-exec", shell)["pid"]
while True:
    status = agent("guest-exec-status", {"pid": pid})
    if status["exited"]:
        break
    time.sleep(0.02)
sys.stdout.write(text("out-data"))
sys.stderr.write(text("err-data"))
sys.exit(status.get("exitcode", 128 + status.get("signal", 0)))
