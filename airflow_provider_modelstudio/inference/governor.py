"""When may the next request go? Pure: asked with ``now``, told what happened in past-tense verbs."""
