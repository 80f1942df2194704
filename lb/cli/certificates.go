package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

type certificatesCmd struct {
	adminFlags `embed:""`
	JSON       bool `help:"Print the admin API's answer."`
}

func (c *certificatesCmd) Run(ctx context.Context, env Env) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	api, address, err := c.api()
	if err != nil {
		return err
	}
	r, err := api.ListCertificates(ctx, connect.NewRequest(&adminv1.ListCertificatesRequest{}))
	if err != nil {
		return noAnswer(address, err)
	}
	if c.JSON {
		fmt.Fprintln(env.Out, protojson.Format(r.Msg))
		return nil
	}
	certificates(env.Out, r.Msg, time.Now())
	return nil
}

// certificates prints a table, what is wrong with which, and the mesh.
func certificates(w io.Writer, r *adminv1.ListCertificatesResponse, now time.Time) {
	if len(r.GetCertificates()) == 0 {
		fmt.Fprintln(w, "There are none: neither listeners nor clusters, nor the admin address, have a certificate.")
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAMES\tEXPIRES\tSERIAL\tISSUER\tWHERE\tFROM")
	for _, c := range r.GetCertificates() {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", named(c), expires(c, now), dash(c.GetSerial()), dash(c.GetIssuer()), c.GetWhere(), origin(c))
	}
	_ = tw.Flush()
	for _, c := range r.GetCertificates() {
		if c.GetLastError() != "" {
			fmt.Fprintf(w, "\n%s, %s, fails since %s: %s\n", c.GetWhere(), named(c), moment(c.GetLastErrorAt()), dash(c.GetLastError()))
		}
	}
	if m := r.GetMesh(); m != nil {
		mesh(w, m)
	}
}

func mesh(w io.Writer, m *adminv1.Mesh) {
	fmt.Fprintf(w, "\nConsul's mesh: service %s", m.GetService())
	if m.GetTrustDomain() != "" {
		fmt.Fprintf(w, ", trust domain %s, authorities trusted: %d", m.GetTrustDomain(), len(m.GetRoots()))
	}
	fmt.Fprintf(w, "\n  the agent gave the certificate %s, the authorities %s\n", fetched(m.GetCertificateFetchedAt()), fetched(m.GetRootsFetchedAt()))
	if m.GetLastError() != "" {
		fmt.Fprintf(w, "  fails since %s: %s\n", moment(m.GetStaleSince()), dash(m.GetLastError()))
	}
	if n := m.GetIntentionsFailing(); n > 0 {
		fmt.Fprintf(w, "  no answer about %d of %d intentions\n", n, m.GetIntentions())
	}
}

func named(c *adminv1.Certificate) string {
	switch names := c.GetNames(); len(names) {
	case 0:
		return dash(c.GetSubject())
	case 1:
		return names[0]
	default:
		return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
	}
}

func expires(c *adminv1.Certificate, now time.Time) string {
	if c.GetNotAfter() == nil {
		return "none yet"
	}
	left := c.GetNotAfter().AsTime().Sub(now)
	at := moment(c.GetNotAfter())
	switch {
	case left <= 0:
		return at + " EXPIRED"
	case left < 2*time.Hour:
		return fmt.Sprintf("%s (in %d min)", at, left/time.Minute)
	case left < 48*time.Hour:
		return fmt.Sprintf("%s (in %d h)", at, left/time.Hour)
	case left > 100*365*24*time.Hour: // some are written to last for ever, longer than a Duration can be
		return at
	}
	return fmt.Sprintf("%s (in %d days)", at, left/(24*time.Hour))
}

func origin(c *adminv1.Certificate) string {
	switch c.GetSource() {
	case adminv1.CertificateSource_CERTIFICATE_SOURCE_ACME:
		return "ACME, " + c.GetOrigin()
	case adminv1.CertificateSource_CERTIFICATE_SOURCE_CONNECT:
		return "Consul, service " + c.GetOrigin()
	}
	return c.GetOrigin()
}

func moment(t *timestamppb.Timestamp) string {
	return t.AsTime().UTC().Format("2006-01-02 15:04:05Z")
}

func fetched(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	return "last at " + moment(t)
}

// dash is s on one line; - for nothing.
func dash(s string) string {
	if s = strings.Join(strings.Fields(s), " "); s == "" {
		return "-"
	}
	return s
}
