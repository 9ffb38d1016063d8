"""One long video over many GPUs, on Ray Serve.

- `app.py`: the four deployments; `config.py`: their settings;
- `model_info.py`: the model, as its folder describes it; `loras.py`: the LoRAs that a video may ask for;
- `api/`: the HTTP endpoint; `page/`: the web page; `uploads/`: what clients send;
- `state/`: jobs and tasks in a database, the queue that workers claim from; `work/`: what the workers do;
- `client.py`, `demo.py`, `start.py`, `local.py`: a client, the demo, a server that stays, and what starts both;
- `proxy.py`: what Serve's proxies say of a replica that is lost.
"""
