module github.com/trunkline/trunkline/integration/tools/h2spec

go 1.26
