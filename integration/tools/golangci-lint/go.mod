module github.com/trunkline/trunkline/integration/tools/golangci-lint

go 1.26
