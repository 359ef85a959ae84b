// Package httpserver is the HTTP face of a fleet of inference workers: the OpenAI surface that existing clients
// speak, Ollama's native API, and the native /v2 surface with resumable event streams. It bounds and checks a
// request once, hands it as a Request to the Submitter that the program gave, and renders jobs, records and coded
// errors in the shape that each surface's clients expect. It knows no queue, no scheduler and no worker: everything
// behind it is a small interface declared here over the package's own structs. Routes stand on gorilla/mux.
package httpserver
