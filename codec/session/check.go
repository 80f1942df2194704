package session

import "fmt"

// Check verifies the books of connections: windows, the waiting list, the table, and the budgets, whose clients have no
// streams on other connections. It is for tests and fuzzers, which call it between events, outside of a handler; nil says
// that all is well.
func Check(conns ...*Conn) error {
	held, granted, loose := map[*Budget]int64{}, map[*Budget]int64{}, map[*Budget]int64{} // loose: partial frames are not refused
	for _, c := range conns {
		if err := c.check(); err != nil {
			return err
		}
		if c.budget != nil {
			held[c.budget] += c.held
			loose[c.budget] += c.partial
		}
		for _, s := range c.streams.slots {
			if s != nil && s.budget != nil {
				held[s.budget] += int64(s.Held())
				granted[s.budget] += int64(s.recvMax - c.cfg.StreamWindow)
			}
		}
	}
	for b, n := range held {
		if b.Held != n || b.Granted != granted[b] || b.Held > b.Max+loose[b] {
			return fmt.Errorf("budget of %d says held %d, granted %d; streams hold %d, were granted %d", b.Max, b.Held, b.Granted, n, granted[b])
		}
	}
	return checkTotals(held)
}

// checkTotals compares the totals with the budgets of their clients, which must all be there.
func checkTotals(budgets map[*Budget]int64) error {
	sums := map[*Total]Total{}
	for b, n := range budgets {
		if b.Total == nil {
			continue
		}
		t := sums[b.Total]
		if t.Held += n; n > 0 {
			t.Holders++
		}
		sums[b.Total] = t
	}
	for t, want := range sums {
		if t.Held != want.Held || t.Holders != want.Holders {
			return fmt.Errorf("total says %d of %d clients; %d of %d are held", t.Held, t.Holders, want.Held, want.Holders)
		}
	}
	return nil
}

// Spend leaves so much in every purse of a connection that has limits (Abuse), so that a short input can use them up. It is for
// tests and fuzzers.
func Spend(c *Conn, left float64) {
	for k := range kinds {
		if c.cfg.Abuse.rate(k) > 0 {
			c.purse[k].left = left
		}
	}
}

func (c *Conn) check() error {
	waiting := 0
	for s := c.waiting.next; s != &c.waiting; s = s.next {
		if s.conn != c || !s.queued || s.prev.next != s || s.next.prev != s || c.streams.get(s.ID) != s || s.Held() == 0 {
			return fmt.Errorf("stream %d does not belong into the waiting list", s.ID)
		}
		waiting++
	}
	n, holding := 0, 0
	for _, s := range c.streams.slots {
		if s == nil {
			continue
		}
		n++
		if s.queued {
			waiting--
		}
		if s.pend != nil {
			holding++
		}
		switch {
		case s.conn != c || c.streams.get(s.ID) != s:
			return fmt.Errorf("stream %d is in the wrong table", s.ID)
		case s.recvWin < 0 || s.recvWin+s.recvCredit > s.recvMax:
			return fmt.Errorf("stream %d: receive window %d and credit %d of %d", s.ID, s.recvWin, s.recvCredit, s.recvMax)
		case (s.pend != nil) != (s.Held() > 0):
			return fmt.Errorf("stream %d keeps an empty buffer", s.ID)
		case s.Held() > 0 && s.sendWin > 0 && !s.queued:
			return fmt.Errorf("stream %d has data and a window but no turn", s.ID)
		case s.sendClosed && (s.Held() > 0 || s.trailers != nil):
			return fmt.Errorf("stream %d has ended with something left to say", s.ID)
		case s.sendClosed && s.recvClosed:
			return fmt.Errorf("stream %d has ended and is in the table", s.ID)
		case s.Held() == 0 && (s.pendEnd || s.trailers != nil || s.resetSet) && !s.sendClosed:
			return fmt.Errorf("stream %d was never ended", s.ID)
		}
	}
	switch {
	case n != c.streams.n:
		return fmt.Errorf("%d streams counted, %d in the table", c.streams.n, n)
	case holding != c.holding:
		return fmt.Errorf("%d streams said to hold data, %d do", c.holding, holding)
	case c.budget != nil && c.held != c.partial+c.outHeld+int64(len(c.contBlock)):
		return fmt.Errorf("connection: holds %d; %d of a frame, %d of output, %d of a header block", c.held, c.partial, c.outHeld, len(c.contBlock))
	case waiting != 0:
		return fmt.Errorf("%d streams are queued and not in the list", -waiting)
	case c.failed == nil && (c.recvWin < 0 || c.recvWin+c.recvCredit != int64(c.cfg.ConnWindow)):
		return fmt.Errorf("connection: receive window %d and credit %d of %d", c.recvWin, c.recvCredit, c.cfg.ConnWindow)
	case c.outOff > len(c.out) || c.Written() > c.total:
		return fmt.Errorf("output of %d bytes from %d", len(c.out), c.outOff)
	}
	return nil
}
