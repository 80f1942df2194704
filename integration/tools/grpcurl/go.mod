module github.com/trunkline/trunkline/integration/tools/grpcurl

go 1.26
