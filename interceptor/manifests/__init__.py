"""What is applied to a cluster: values in, YAML out.

values              what can be chosen
yaml_text           values to YAML with comments, always in the same order
names               what the objects are called, and their labels
foundation          namespace and service accounts
rights              RBAC, with the reason for each verb
authority           the replicas of the authority, and what is around them
agent               the DaemonSet and its configuration
policy_definitions  PeerAuthentication and AuthorizationPolicy, where Istio's are not
everything          all of it, in the order in which it is applied
"""
