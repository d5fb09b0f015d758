"""What is told about connections: records, the access log, metrics. **Pure.**"""
