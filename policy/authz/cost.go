package authz

import (
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/types"
)

// maxCost bounds what one condition may cost, in CEL's units (a look at a variable, a comparison, ten characters of a string): about
// a millisecond. A typical condition costs ten.
const maxCost = 20_000

// sizes are how large facts are at most, for the estimate of a condition's cost.
type sizes struct{ text, list, mapping uint64 }

var _ checker.CostEstimator = sizes{}

// usual are those of sensible calls. A condition that costs too much even with them is not accepted.
func usual() sizes { return sizes{text: 128, list: 8, mapping: 32} }

// extreme are those of calls that use what limits leave to them (512 fields of metadata, say). A condition that does not cost too
// much with them need not be watched while it is evaluated, which would cost four times as much as the evaluation. A token or field that is longer still
// costs more in proportion only.
func extreme() sizes { return sizes{text: 8192, list: 512, mapping: 512} }

// EstimateSize is the size of a variable or a part of one.
func (s sizes) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	if len(node.Path()) == 0 {
		return nil // computed: CEL knows better
	}
	var most uint64
	switch node.Type().Kind() {
	case types.StringKind:
		most = s.text
	case types.ListKind:
		most = s.list
	case types.MapKind, types.DynKind:
		most = s.mapping
	default:
		return nil
	}
	return &checker.SizeEstimate{Min: 0, Max: most}
}

// EstimateCallCost leaves it to CEL.
func (sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}
