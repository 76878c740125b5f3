"""The messages and stubs of the proto package babelward.v1, made from proto/babelward/v1 when this package was built.

The proto files are the reference of every message and field. Admin and quality calls have stubs here, too.
"""

from .admin_pb2 import *
from .admin_pb2_grpc import AdminServiceStub as AdminServiceStub
from .common_pb2 import *
from .generation_pb2 import *
from .generation_pb2_grpc import GenerationServiceStub as GenerationServiceStub
from .model_pb2 import *
from .model_pb2_grpc import ModelServiceStub as ModelServiceStub
from .quality_pb2 import *
from .quality_pb2_grpc import QualityServiceStub as QualityServiceStub
from .safety_pb2 import *
from .safety_pb2_grpc import SafetyServiceStub as SafetyServiceStub
from .scoring_pb2 import *
from .scoring_pb2_grpc import ScoringServiceStub as ScoringServiceStub
