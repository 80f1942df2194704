// Package edge runs a built Trunkline between stock clients, servers, issuers and authorities, and checks from the outside what issue 4
// promises of TLS, identity, authorisation and rules on payloads; it must not reach into the product's packages.
package edge
