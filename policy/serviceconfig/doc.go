// Package serviceconfig owns gRPC's service config with Trunkline's key beside it: reading it with the place of each mistake,
// and finding what holds for a method; it must not act on it.
//
// The format is gRPC's own (https://github.com/grpc/grpc/blob/master/doc/service_config.md, gRFC A2, A6, A21), so that the
// same document serves clients and proxy; what it has no word for stands in it under the key "trunkline", which clients skip.
// This is all of it (// begins a comment here, JSON has none; a test reads it, and so does grpc-go):
//
//	{
//	  "methodConfig": [
//	    {
//	      "name": [{"service": "shop.Orders"}],      // every method of it; {} is every method of every service
//	      "timeout": "2s",                           // gRPC's durations: seconds with up to 9 decimals
//	      "waitForReady": false,
//	      "maxRequestMessageBytes": 1048576,
//	      "maxResponseMessageBytes": 4194304,
//	      "retryPolicy": {
//	        "maxAttempts": 3,                        // 2 to 5, the first included; more counts as 5
//	        "initialBackoff": "0.05s",
//	        "maxBackoff": "1s",
//	        "backoffMultiplier": 2,
//	        "retryableStatusCodes": ["UNAVAILABLE"]  // names or numbers
//	      }
//	    },
//	    {
//	      "name": [{"service": "shop.Orders", "method": "Get"}, {"service": "shop.Orders", "method": "List"}],
//	      "timeout": "1s",
//	      "hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "0.1s", "nonFatalStatusCodes": ["UNAVAILABLE"]}
//	    }
//	  ],
//	  "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
//	  "loadBalancingConfig": [{"round_robin": {}}],  // the first that is had; also least_request_experimental
//	  "healthCheckConfig": {"serviceName": "shop.Orders"}, // turns trunkline.cluster.healthCheck on
//	  "trunkline": {
//	    "methodPolicy": [
//	      {
//	        "name": [{"service": "shop.Orders", "method": "Get"}], // as in methodConfig, chosen by itself
//	        "idempotent": true,                      // default: what the descriptors declare
//	        "perTryTimeout": "250ms",                // durations here: "250ms", "0.25s", "1m30s"; default: none
//	        "idleTimeout": "5m",                     // default: none
//	        "refuseHopeless": true,                  // default: false
//	        "holdResponse": "100ms",                 // the default; "0s": not at all
//	        "replayBytes": 65536,                    // default: limits.replayBytesPerCall
//	        "maxStreams": 200,                       // default: no limit
//	        "breaker": {                             // default: none; consecutive, errorRate or both
//	          "consecutive": 5,
//	          "errorRate": 0.5,
//	          "window": "10s", "minVolume": 20, "openFor": "5s", "maxOpenFor": "60s", "probes": 3, // the defaults
//	          "faults": ["UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"]   // the default
//	        },
//	        "hedging": {"delayPercentile": 95},      // with a hedgingPolicy
//	        "rateLimits": [
//	          {"requestsPerSecond": 500, "burst": 100},                  // each method; burst's default: a second's worth
//	          {"requestsPerSecond": 900, "shared": true},                // all methods of this entry together
//	          {"requestsPerSecond": 10, "metadata": "x-user", "maxKeys": 10000}, // one bucket per value
//	          {"requestsPerSecond": 50, "clientAddress": true},          // one bucket per client
//	          {"requestsPerSecond": 50, "identity": true},               // per caller, by token, key or certificate
//	          {"requestsPerSecond": 500, "claim": "org"}                 // per value of a claim of the token
//	        ]
//	      }
//	    ],
//	    "cluster": {
//	      "retryBudget": {"ratio": 0.1, "burst": 50}, // the defaults
//	      "hedgeBudget": {"ratio": 0.1, "burst": 50}, // the defaults
//	      "concurrency": {"maxStreams": 1000, "maxStreamsPerEndpoint": 100, "maxPending": 50, "pendingTimeout": "1s"},
//	      "breaker": {"consecutive": 20},            // of an endpoint over all methods
//	      "outlierDetection": {                      // default: none; what is given here are the defaults
//	        "interval": "1s", "baseEjectionTime": "30s", "maxEjectionTime": "5m", "maxEjectedShare": 0.5,
//	        "consecutive": 5,
//	        "successRate": {"stdevFactor": 1.9, "minHosts": 5, "minVolume": 100},             // default: none
//	        "failureShare": {"threshold": 0.85, "minHosts": 5, "minVolume": 50},              // default: none
//	        "latency": {"factor": 3, "min": "50ms", "minHosts": 3, "minVolume": 50},          // default: none
//	        "faults": [2, 4, 13, 14, 15]
//	      },
//	      "panicShare": 0.5,                         // the default; 0: never
//	      "slowStart": "10s",                        // default: none
//	      "healthCheck": {"service": "", "interval": "5s", "timeout": "1s", "unhealthyThreshold": 2, "healthyThreshold": 1},
//	      "adaptiveConcurrency": {                   // default: none; these are the defaults
//	        "min": 4, "max": 1000, "initial": 50, "window": "100ms", "minSamples": 10, "tolerance": 1.5, "rebase": "30s"
//	      },
//	      "rateLimitService": {                      // default: none
//	        "address": "127.0.0.1:8081",
//	        "domain": "trunkline", "timeout": "20ms", "failOpen": true, // the defaults
//	        "descriptors": [
//	          [{"key": "method", "method": true}, {"key": "user", "metadata": "x-user"}],
//	          [{"key": "plan", "value": "free"}, {"key": "ip", "clientAddress": true}]
//	        ]
//	      }
//	    }
//	  }
//	}
//
// Of methodConfig and of methodPolicy each, the most specific entry holds alone: full name, else service, else {}.
//
// Where gRPC's clients differ among themselves or take silently what can only be a mistake, differential_test.go has the
// table of what is done here, beside grpc-go's verdict. Unknown keys are warnings in gRPC's part, since a newer gRPC may know
// them, and errors under "trunkline" and in names.
package serviceconfig
