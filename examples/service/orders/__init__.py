"""A service that takes orders, of three plugins: settings, database, web.

python -m grelmicro.service run orders.web --forks 2 --config config.toml \
    --bind tcp://127.0.0.1:8000 --bind unix:///tmp/orders.sock
"""
