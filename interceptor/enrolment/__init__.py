"""Which workloads are in the mesh, as immutable snapshots. **Pure.**"""
