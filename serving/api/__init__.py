"""The HTTP endpoint: `create_app` of `serving.api.routes`, stateless, any number of copies on one database."""
