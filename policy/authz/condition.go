package authz

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
)

// maxExpression is how long a condition may be, in characters.
const maxExpression = 16 << 10

// Condition is a compiled condition. Immutable.
type Condition struct {
	source    string
	program   cel.Program
	variables []string // that it uses
}

// Compiler compiles conditions.
type Compiler struct{ env *cel.Env }

// Variables are the names that conditions may use.
func Variables() []string {
	return []string{"method", "service", "authority", "metadata", "peer", "identity", "claims", "now"}
}

// NewCompiler makes a Compiler. An error is a defect of this package.
func NewCompiler() (*Compiler, error) {
	env, err := cel.NewEnv(
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.OptionalTypes(), ext.Strings(), ext.Sets(), ext.Network(),
		cel.Variable("method", cel.StringType),
		cel.Variable("service", cel.StringType),
		cel.Variable("authority", cel.StringType),
		cel.Variable("metadata", cel.MapType(cel.StringType, cel.ListType(cel.StringType))),
		cel.Variable("peer", cel.ObjectType(peerType)),
		cel.Variable("identity", cel.ObjectType(identityType)),
		cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("now", cel.TimestampType),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals()),
		func(e *cel.Env) (*cel.Env, error) { // last: it stands before those that others added
			return cel.CustomTypeProvider(newProvider(e.CELTypeProvider()))(e)
		},
	)
	if err != nil {
		return nil, fmt.Errorf("CEL cannot be set up: %w", err)
	}
	return &Compiler{env: env}, nil
}

// ExpressionError is what is wrong with a condition.
type ExpressionError struct {
	Line, Column int // in the condition, from 1, in characters
	Message      string
	Snippet      string // what stands there, a few characters
}

func (e *ExpressionError) Error() string {
	at := fmt.Sprintf("character %d", e.Column)
	if e.Line > 1 {
		at = fmt.Sprintf("line %d, character %d", e.Line, e.Column)
	}
	if e.Snippet != "" {
		at += fmt.Sprintf(" (%s)", e.Snippet)
	}
	return fmt.Sprintf("at %s: %s", at, e.Message)
}

// Compile compiles a condition. The error is an *ExpressionError: of the first thing that is wrong.
func (c *Compiler) Compile(source string) (*Condition, error) {
	ast, issues := c.env.Compile(source)
	if issues.Err() != nil {
		return nil, explain(source, issues)
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) {
		msg := fmt.Sprintf("the result is a %s, not true or false: compare it with something", t)
		if t.Kind() == types.DynKind {
			msg = "the result may be anything: write " + source + " == true, if that is what is meant"
		}
		return nil, &ExpressionError{Line: 1, Column: 1, Message: msg}
	}
	cost, err := c.env.EstimateCost(ast, usual())
	if err != nil {
		return nil, &ExpressionError{Line: 1, Column: 1, Message: err.Error()}
	}
	if cost.Max > maxCost {
		return nil, &ExpressionError{Line: 1, Column: 1,
			Message: fmt.Sprintf("it may cost %d steps for a call, and %d are allowed: loop over less, or not within a loop", cost.Max, maxCost)}
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if cost, err := c.env.EstimateCost(ast, extreme()); err != nil || cost.Max > maxCost {
		options = append(options, cel.CostLimit(maxCost))
	}
	program, err := c.env.Program(ast, options...)
	if err != nil {
		return nil, &ExpressionError{Line: 1, Column: 1, Message: err.Error()}
	}
	x := &Condition{source: source, program: program}
	for _, r := range ast.NativeRep().ReferenceMap() {
		if slices.Contains(Variables(), r.Name) && !slices.Contains(x.variables, r.Name) {
			x.variables = append(x.variables, r.Name)
		}
	}
	return x, nil
}

// Variables are those that the condition uses, of Variables.
func (x *Condition) Variables() []string { return slices.Clone(x.variables) }

func (x *Condition) uses(variable string) bool {
	return x != nil && slices.Contains(x.variables, variable)
}

// holds evaluates the condition. why says why it cannot be: what is said has no values in it.
func (x *Condition) holds(w *facts) (yes bool, why string) {
	if x == nil {
		return true, ""
	}
	v, _, err := x.program.Eval(w)
	if err != nil {
		return false, x.cause(err)
	}
	b, ok := v.(types.Bool)
	if !ok {
		return false, "it is neither true nor false"
	}
	return bool(b), ""
}

// cause is the kind of an error. The error itself may hold values: a key that is not there may be one of a token's claims.
func (x *Condition) cause(err error) string {
	msg := err.Error()
	if key, ok := strings.CutPrefix(msg, "no such key: "); ok {
		if strings.Contains(x.source, key) {
			return "there is no " + key
		}
		return "a key is not there"
	}
	for _, known := range []string{"no such overload", "index out of bounds", "cost limit exceeded", "division by zero", "overflow"} {
		if strings.Contains(msg, known) {
			return known
		}
	}
	return "it fails"
}
