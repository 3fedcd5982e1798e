"""Serve a model with OpenAI's API, ask it a question over HTTP, and ask the same question in this process.

python examples/serve_and_ask.py my_model [question]
"""

import json
import re
import subprocess
import sys
import urllib.request

import hanlin

model = sys.argv[1]
messages = [{"role": "user", "content": sys.argv[2] if len(sys.argv) > 2 else "你叫什么名字？"}]

command = [sys.executable, "-m", "hanlin", "serve", f"mine={model}", "--port", "0"]
with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8") as server:
    lines = iter(server.stdout.readline, "")
    address = next(found[0] for line in lines if (found := re.search(r"http://[\d.]+:\d+", line)))
    body = json.dumps({"model": "mine", "messages": messages, "temperature": 0, "max_tokens": 16}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/chat/completions", body, headers)
    with urllib.request.urlopen(request) as response:
        served = json.load(response)["choices"][0]["message"]["content"]
    server.terminate()

with hanlin.load_engine(model) as engine:
    local = engine.chat(messages, temperature=0, max_new_tokens=16)
print(f"over HTTP:       {served!r}\nin this process: {local!r}")
