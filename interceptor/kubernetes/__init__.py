"""The Kubernetes API: read, followed as it changes, and told how things stand. **Does I/O.**

access         where the API is, and who we are there
connection     one connection to it
client         requests over it
resource       what is asked for each kind
listing        everything of one kind, page by page
informer       one kind: a list, and a watch from there on, without end
removal        whether the mesh is being taken out of the cluster
status_writer  what is written into objects' status: a failure is followed by a pause
event_sender   Events, as their log says
cluster_watch  all kinds as one snapshot that is always current
"""
