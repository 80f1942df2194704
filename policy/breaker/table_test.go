package breaker

import (
	"fmt"
	"slices"
	"testing"
)

func methods(t *Table) (all []string) {
	t.Each(func(endpoint, method string, _ *Breaker) { all = append(all, endpoint+method) })
	return all
}

func TestTheSameKeyGetsTheSameBreaker(t *testing.T) {
	table := NewTable(&Settings{Consecutive: 1}, 10)
	a := table.Get("1.2.3.4:5", "/s/a", 0)
	if table.Get("1.2.3.4:5", "/s/a", 1) != a || table.Get("1.2.3.4:5", "/s/b", 1) == a || table.Get("1.2.3.4:6", "/s/a", 1) == a {
		t.Fatal("mixed up")
	}
	if got := methods(table); !slices.Equal(got, []string{"1.2.3.4:5/s/a", "1.2.3.4:5/s/b", "1.2.3.4:6/s/a"}) {
		t.Fatal(got)
	}
}

func TestAFullTableForgetsWhoWasIdleLongestWhetherGottenOrUsed(t *testing.T) {
	table := NewTable(&Settings{Consecutive: 2}, 3)
	old := table.Get("", "a", 0)
	table.Get("", "b", second)
	table.Get("", "c", 2*second)
	call(old, 60*second, OK) // held, and used though not asked for again
	table.Get("", "d", 61*second)
	if got := methods(table); !slices.Equal(got, []string{"a", "c", "d"}) {
		t.Fatal(got)
	}
}

func TestAFullTableKeepsOpenBreakersAndForgetsThemLast(t *testing.T) {
	table := NewTable(&Settings{Consecutive: 1}, 2)
	open := table.Get("", "a", 0)
	call(open, 0, Fault)
	table.Get("", "b", 60*second)
	table.Get("", "c", 61*second)
	if got := methods(table); !slices.Equal(got, []string{"a", "c"}) || table.Open() != 1 {
		t.Fatal(got, table.Open())
	}
	call(table.Get("", "c", 61*second), 61*second, Fault)
	table.Get("", "d", 62*second)
	if got := methods(table); !slices.Equal(got, []string{"c", "d"}) || table.Open() != 1 {
		t.Fatal(got, table.Open())
	}
	calls(open, 70*second, 3, OK)
	if !open.Closed() || table.Open() != 1 {
		t.Fatal("a forgotten breaker does not go on by itself")
	}
}

func TestALargeFullTableFindsTheOneClosedBreaker(t *testing.T) {
	table := NewTable(&Settings{Consecutive: 1}, 100)
	for i := range 100 {
		b := table.Get("", fmt.Sprint(i), int64(i))
		if i != 77 {
			call(b, 0, Fault)
		}
	}
	table.Get("", "new", 100)
	if table.byKey[key{"", "77"}] != nil || len(table.byKey) != 100 || table.Open() != 99 {
		t.Fatal(len(table.byKey), table.Open())
	}
	for i, e := range table.entries {
		if e.index != i {
			t.Fatalf("entry %d believes to be %d", i, e.index)
		}
	}
}
