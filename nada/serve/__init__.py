"""A server without gradio: sessions, jobs, checked requests, and what the page shows."""
