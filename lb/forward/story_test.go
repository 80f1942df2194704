package forward

import (
	"testing"
)

func TestACallGoesUpAndItsReplyComesDownAsTheyWereSaid(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false, "k", "v")
		c.data(1, "hello", true)
		up := r.end("one", 0)
		up.expect("HEADERS 1 :path=/s.S/M k=v", "DATA 1 hello END")
		up.ok(1)
		c.expect("HEADERS 1 :status=200", "DATA 1 yes", "HEADERS 1 grpc-status=0 END")
	})
}
