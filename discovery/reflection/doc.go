// Package reflection owns asking an endpoint, by gRPC server reflection, which protobuf services and methods it offers.
// It must not judge the answer: who is routed where is decided by discovery/hub and policy.
//
// Ask puts one question to one address. Prober keeps a set of addresses asked: at once when an address appears, quickly
// with backoff while it fails, and every half minute or so after that.
package reflection
