"""The service: pages for people, `/v1` for programs, `/api` for the pages (docs/guides/serve.md)."""
