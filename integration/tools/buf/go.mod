module github.com/trunkline/trunkline/integration/tools/buf

go 1.26
