"""Real servers, real databases and real faults for the tests of core and plugins.

`process` starts programs that never outlive the tests; `mlflow` starts MLflow servers; `backends` says which databases
this machine offers; `proxy` stands in front of a server, counts and injures; `certificates` makes TLS authorities.
The fixtures over them are in the `conftest.py` of the repository.
"""
