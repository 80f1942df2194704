module github.com/trunkline/trunkline/integration/tools/jaeger

go 1.26
