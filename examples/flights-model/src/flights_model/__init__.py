"""Will this flight be late? Prepare, train and evaluate on the flights that left New York in 2013.

The modules of this package import pandas, scikit-learn and mlflow; this one imports nothing, so that a DAG or
pipeline file may import it at no cost and take what it needs inside its tasks.
"""
