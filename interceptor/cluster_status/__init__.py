"""What the Kubernetes API is told of pods and policies, decided from values: what, when, and how often.

**Pure.** Nothing here is needed for a connection; a word that cannot be said now is said later, and some are said together.

pod_condition   how one pod of a node stands, as a condition of its status
policy_status   whether a policy can be enforced, the same for policy objects
changes         which conditions must be written now, and which of them somebody should hear of
events          what happened, as Events: each once, repetitions counted, too many of them as one
token_bucket    how often at most
bodies          all of it in the JSON of the API
"""
