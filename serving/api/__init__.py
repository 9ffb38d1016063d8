"""The HTTP endpoint. It keeps no state, so any number of copies can answer for one database.

- `routes.py`: `create_app` and all routes; `server.py`: what they share; `settings.py`: what they are told;
- `auth.py`, `guard.py`: who may call, and how much of a request is read;
- `schemas.py`, `checks.py`, `errors.py`: what may be asked, what is answered, and how a refusal looks;
- `content.py`, `events.py`, `page.py`: videos as bytes, progress as events, the web page's files;
- `health.py`, `metrics.py`, `upkeep.py`, `webhooks.py`: what runs beside the answers.
"""
