"""tracklayer's git enricher: which code made a run, as tags of the run.

There is nothing to call: the plugin is found by its entry point. See `tracklayer_git.plugin` for the tags.
"""
