mod conformance;
mod grpc;
mod survival;
