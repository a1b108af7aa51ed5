"""What is known now: services, endpoints, models, routing; merging, ages, dirty marks.

No I/O and no Envoy here: time is passed in, and nothing imports grpc, aiohttp or protobuf.
"""
