"""What Kubernetes NetworkPolicies mean for pods whose connections arrive through a tunnel, on port 15008. Pure."""
