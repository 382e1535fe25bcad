// uWebSockets (C++) on the wire of bench/peers: a client of any path is subscribed
// to one topic, a text it sends comes back, POST /broadcast on the control port
// publishes. One App and thread for each processor, all listening on one port; a
// publish is deferred to every thread's loop. Built by ./build.
#include "App.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

struct PerSocket {};

struct Worker {
	uWS::App *app;
	uWS::Loop *loop;
};

static std::mutex lock;
static std::vector<Worker> workers;
static std::string text;

static void broadcast() {
	std::lock_guard<std::mutex> held(lock);
	for (auto &w : workers) {
		w.loop->defer([app = w.app] { app->publish("all", text, uWS::OpCode::TEXT, false); });
	}
}

static void serve(int port) {
	uWS::App app;
	app.ws<PerSocket>("/*", {
		.compression = uWS::DISABLED,
		.maxPayloadLength = 64 * 1024,
		.idleTimeout = 120,
		.maxBackpressure = 1024 * 1024,
		.open = [](auto *ws) { ws->subscribe("all"); },
		.message = [](auto *ws, std::string_view message, uWS::OpCode op) { ws->send(message, op, false); },
	}).listen("127.0.0.1", port, [port](auto *socket) {
		if (!socket) {
			std::cerr << "uws: port " << port << " is taken" << std::endl;
			std::exit(1);
		}
	});
	{
		std::lock_guard<std::mutex> held(lock);
		workers.push_back({&app, uWS::Loop::get()});
	}
	app.run();
}

static std::string parameter(uWS::HttpRequest *request, const char *name) {
	return std::string(request->getQuery(name));
}

int main(int argc, char **argv) {
	if (argc != 4) {
		std::cerr << "usage: uws PORT CONTROL_PORT SIZE" << std::endl;
		return 2;
	}
	text = std::string(std::atoi(argv[3]), 'x');
	for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); i++) {
		std::thread(serve, std::atoi(argv[1])).detach();
	}
	// The control port has a loop of its own. An order is carried out on a thread,
	// which answers through the loop when it is done.
	auto *loop = uWS::Loop::get();
	uWS::App()
		.get("/readyz", [](auto *response, auto *) { response->end(); })
		.post("/broadcast", [loop](auto *response, auto *request) {
			double rate = std::atof(parameter(request, "rate").c_str());
			int count = std::atoi(parameter(request, "count").c_str());
			response->onAborted([] {});
			std::thread([=] {
				auto begun = std::chrono::steady_clock::now();
				auto at = [&](int i) { return begun + std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(i / rate)); };
				int messages = 0;
				for (int i = 0; i < count && std::chrono::steady_clock::now() < at(count); i++) {
					std::this_thread::sleep_until(at(i));
					broadcast();
					messages++;
				}
				loop->defer([=] { response->end("{\"messages\":" + std::to_string(messages) + "}"); });
			}).detach();
		})
		.listen("127.0.0.1", std::atoi(argv[2]), [](auto *) {})
		.run();
}
