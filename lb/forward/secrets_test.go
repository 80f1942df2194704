package forward

import (
	"testing"

	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

func TestValuesOfMetadataAreHiddenInQuestionsToTheRateLimitService(t *testing.T) {
	c := &Call{req: []*hpack.Field{{Name: "token", Value: "s3cret"}}}
	entries := c.descriptor([]serviceconfig.DescriptorEntry{{Key: "who", Metadata: "token"}, {Key: "everybody", Value: "yes"}})
	if len(entries) != 2 || !entries[0].Hidden || entries[0].Value != "s3cret" || entries[1].Hidden {
		t.Errorf("the service is asked about %+v", entries)
	}
}
