"""The HTTP endpoint. It keeps no state, so any number of copies can answer for one database.

- `routes.py`: `create_app` and all routes; `server.py`: what they share; `settings.py`: what they are told;
- `auth.py`, `guard.py`: who may call, and how much of a request is read;
- `schemas.py`, `checks.py`, `sizes.py`, `errors.py`: what may be asked, what is answered, and how a refusal looks;
- `models.py`, `content.py`, `events.py`, `page.py`: the model, videos as bytes, progress, the web page's files;
- `head.py`: HEAD wherever GET is;
- `health.py`, `metrics.py`, `upkeep.py`, `webhooks.py`: what runs beside the answers.
"""
