// Matrices n x p with orthonormal columns: geodesics, retractions and projections, a block for each matrix.
//
// The tall matrices are read for their Gram matrices and once more to be combined; everything between is p x p, in
// float64. The same formulas as manifolds/kernels/cpu/orthonormal.py.
#pragma once

#include "matrices.cuh"

namespace holonomy {

template <class T> struct Tall {
    const T *g, *x, *u;
    T* y;            // the result, which the backward passes read
    double* factor;  // (rows, p) that the forward pass keeps
    T *dx, *du;
    double number;  // rounding unit
};

// -- cosine and sine of a matrix: cos(sqrt(a)) and sin(sqrt(a))/sqrt(a) ----------------------------------------------

// Doublings that a workspace has room for: angles up to 2^16. Beyond there is NaN.
constexpr int kDoublings = 16;

// Coefficients of the polynomials: for |a| <= 1, what is left out is below 1e-18.
FN double turn_coefficient(bool sine, int k) {
    double product = 1.0;
    for (int i = 2; i <= 2 * k + (sine ? 1 : 0); ++i) product *= i;
    return (k % 2 ? -1.0 : 1.0) / product;
}

template <class M> struct MatrixTurn {
    const M& m;
    int a, levels;  // slots: a and its square and cube; values of the polynomials, then a pair for each doubling
    int count = 0, cos, sinc;

    METHOD void third(int out, bool sine, int k) const {
        double c0 = turn_coefficient(sine, k), c1 = turn_coefficient(sine, k + 1), c2 = turn_coefficient(sine, k + 2);
        m.each([&](int i, int j) {
            m.at(out, i, j) += (i == j ? c0 : 0.0) + c1 * m.at(a, i, j) + c2 * m.at(a + 1, i, j);
        });
    }
    // Of degree 9, by cubes (Paterson, Stockmeyer): out has the value, the two slots after it the inner sums.
    OUTLINE void polynomial(int out, bool sine) const {
        m.clear(out + 2);
        third(out + 2, sine, 6);
        m.add_scaled(out + 2, turn_coefficient(sine, 9), a + 2);
        m.product(out + 1, a + 2, out + 2);
        third(out + 1, sine, 3);
        m.product(out, a + 2, out + 1);
        third(out, sine, 0);
    }
    // Adds the gradients of a, a^2, a^3 to three slots from `change` on; `inner` has two spare slots.
    OUTLINE void polynomial_back(int g, int values, bool sine, int change, int inner) const {
        int source = g;
        for (int k = 0; k < 3; ++k) {
            m.add_scaled(change, turn_coefficient(sine, 3 * k + 1), source);
            m.add_scaled(change + 1, turn_coefficient(sine, 3 * k + 2), source);
            if (k < 2) {
                m.add_product(change + 2, 1.0, source, values + k + 1);
                m.product(inner + k, a + 2, source);
                source = inner + k;
            }
        }
        m.add_scaled(change + 2, turn_coefficient(sine, 9), source);
    }
    // cos 2t = 2 cos^2 t - 1 and sinc 2t = sinc t cos t, after polynomials of a/4^count.
    OUTLINE void run(int source) {
        double norm = m.frobenius(source), factor = 1.0;
        count = 0;
        while (norm > 1.0 && count < kDoublings && norm < 1e300) norm *= 0.25, factor *= 0.25, ++count;
        if (norm > 1.0) factor = norm - norm, factor /= factor;  // NaN
        m.copy(a, source);
        m.scale(a, factor);
        m.product(a + 1, a, a);
        m.product(a + 2, a + 1, a);
        polynomial(levels, false);
        polynomial(levels + 3, true);
        cos = levels, sinc = levels + 3;
        for (int k = 0; k < count; ++k) {
            int next = levels + 6 + 2 * k;
            m.scaled_identity(next, -1.0);
            m.add_product(next, 2.0, cos, cos);
            m.product(next + 1, sinc, cos);
            cos = next, sinc = next + 1;
        }
    }
    // The gradient of the source, in slot spare, from those of cos and sinc, which are overwritten; six spare slots.
    OUTLINE void back(int gcos, int gsinc, int spare) const {
        m.symmetrize(gcos);
        m.symmetrize(gsinc);
        double factor = 1.0;
        for (int k = count - 1; k >= 0; --k) {
            int c = k == 0 ? levels : levels + 4 + 2 * k, s = k == 0 ? levels + 3 : c + 1;
            m.clear(spare);
            m.add_product(spare, 4.0, gcos, c);
            m.add_product(spare, 1.0, s, gsinc);
            m.product(spare + 1, gsinc, c);
            m.symmetrize(spare);
            m.symmetrize(spare + 1);
            m.copy(gcos, spare);
            m.copy(gsinc, spare + 1);
            factor *= 0.25;
        }
        for (int k = 0; k < 3; ++k) m.clear(spare + k);
        polynomial_back(gcos, levels, false, spare, spare + 3);
        polynomial_back(gsinc, levels + 3, true, spare, spare + 3);
        m.add_product(spare + 1, 1.0, spare + 2, a);
        m.add_product(spare, 1.0, a + 1, spare + 2);
        m.add_product(spare, 1.0, spare + 1, a);
        m.add_product(spare, 1.0, a, spare + 1);
        m.symmetrize(spare);
        m.scale(spare, factor);
    }
};

// -- geodesics of subspaces: y = (x cos + u sinc)(3/2 I - gram/2) ----------------------------------------------------

// Slots out, out + 1, out + 2: the last factor, cos xx, sinc uu.
template <class M> METHOD void correction(const M& m, int cos, int sinc, int xx, int uu, int out) {
    m.product(out + 1, cos, xx);
    m.product(out + 2, sinc, uu);
    m.scaled_identity(out, 1.5);
    m.add_product(out, -0.5, out + 1, cos);
    m.add_product(out, -0.5, out + 2, sinc);
    m.symmetrize(out);
}

struct orthonormal_exp {
    template <class T, class M> METHOD static void run(const M& m, const Tall<T>& t) {
        m.gram(0, t.x, t.x);
        m.gram(1, t.u, t.u);
        MatrixTurn<M> turn{m, 2, 9};
        turn.run(1);
        correction(m, turn.cos, turn.sinc, 0, 1, 5);
        m.product(2, turn.cos, 5);
        m.product(3, turn.sinc, 5);
        m.narrow(m.left, 2, 1.0);
        m.narrow(m.right, 3, 1.0);
        m.combine(t.y, t.x, t.u);
    }
};

struct orthonormal_exp_back {
    template <class T, class M> METHOD static void run(const M& m, const Tall<T>& t) {
        constexpr int xx = 0, uu = 1, gx = 2, gu = 3, a = 4, out = 7, gcos = 10, gsinc = 11, gk = 12, gg = 13;
        constexpr int spare = 14, levels = 20;
        m.gram(xx, t.x, t.x);
        m.gram(uu, t.u, t.u);
        m.gram(gx, t.x, t.g);
        m.gram(gu, t.u, t.g);
        MatrixTurn<M> turn{m, a, levels};
        turn.run(uu);
        const int cos = turn.cos, sinc = turn.sinc;
        correction(m, cos, sinc, xx, uu, out);
        // gk is the gradient of the last factor, gg that of the Gram matrix.
        m.clear(gk);
        m.add_product(gk, -0.5, cos, gx);
        m.add_product(gk, -0.5, sinc, gu);
        m.copy(gg, gk);
        m.symmetrize(gg);
        // gcos = gx k + 2 xx cos gg, gsinc = gu k + 2 uu sinc gg, up to their skew parts.
        m.transpose(spare, out + 1);
        m.transpose(spare + 1, out + 2);
        m.product(gcos, gx, out);
        m.product(gsinc, gu, out);
        m.add_product(gcos, 2.0, spare, gg);
        m.add_product(gsinc, 2.0, spare + 1, gg);
        // dx = g k cos + 2 x cos gg cos.
        m.product(gx, out, cos);
        m.product(gu, out, sinc);
        m.product(gk, gg, cos);
        m.product(out, cos, gk);
        m.narrow(m.left, gx, 1.0);
        m.narrow(m.right, out, 2.0);
        m.combine(t.dx, t.g, t.x);
        // du = g k sinc + 2 u (sinc gg sinc + what reaches uu through cos and sinc).
        m.product(gk, gg, sinc);
        m.product(out, sinc, gk);
        turn.back(gcos, gsinc, spare);
        m.add_scaled(out, 1.0, spare);
        m.narrow(m.left, gu, 1.0);
        m.narrow(m.right, out, 2.0);
        m.combine(t.du, t.g, t.u);
    }
};

// -- retractions ---------------------------------------------------------------------------------------------------

// y = x + u.
template <class T, class M> METHOD void add(const M& m, const Tall<T>& t) {
    for (long long e = m.block.thread; e < (long long)m.n * m.p; e += m.block.threads) t.y[e] = t.x[e] + t.u[e];
    m.block.sync();
}

template <class M> METHOD void shift_diagonal(const M& m, int a, double shift) {
    m.each([&](int i, int j) {
        if (i == j) m.at(a, i, j) += shift;
    });
}

// Cholesky's factor twice. The shift keeps the first pass from breaking down (Fukaya et al., SIAM J. Sci. Comput. 42,
// 2020). `factor` is the product of the two inverses.
struct orthonormal_qr {
    template <class T, class M> METHOD static void run(const M& m, const Tall<T>& t) {
        add(m, t);
        m.gram(0, t.y, t.y);
        double shift = 10.0 * t.number * m.trace(0);
        m.block.sync();
        shift_diagonal(m, 0, shift);
        for (int k = 1; k < 3; ++k) {
            m.cholesky_inverse(0, k);
            m.narrow(m.left, k, 1.0);
            m.multiply(t.y);
            if (k == 1) m.gram(0, t.y, t.y);
        }
        m.each([&](int i, int j) { t.factor[i * m.p + j] = m.entry(1, 2, i, j); });
    }
};

// dw = (g + y c) r^-T, c symmetric with the strict upper triangle of -y^T g: its lower triangle of -g^T y.
struct orthonormal_qr_back {
    template <class T, class M> METHOD static void run(const M& m, const Tall<T>& t) {
        m.gram(0, t.y, t.g);
        m.each([&](int i, int j) {
            m.at(1, j, i) = t.factor[i * m.p + j];
            m.at(2, i, j) = -m.at(0, i < j ? i : j, i < j ? j : i);
        });
        m.product(3, 2, 1);
        m.narrow(m.left, 1, 1.0);
        m.narrow(m.right, 3, 1.0);
        m.combine(t.dx, t.g, t.y);
    }
};

// The polar factor, by the inverse square root of the Gram matrix; twice, so that the second pass removes what rounding
// leaves of the first. `factor` has the eigenvectors, as rows, and the roots of the eigenvalues.
struct orthonormal_polar {
    template <class T, class M> METHOD static void run(const M& m, const Tall<T>& t) {
        add(m, t);
        for (int pass = 0; pass < 2; ++pass) {
            m.gram(0, t.y, t.y);
            // A floor far below any eigenvalue of full rank keeps a rank-deficient matrix finite.
            double floor = t.number * m.trace(0);
            m.block.sync();
            shift_diagonal(m, 0, floor > 1e-300 ? floor : 1.0);
            m.eigh(0, 1);
            m.each([&](int i, int j) { m.at(2, i, j) = m.at(1, i, j) / ::sqrt(m.at(0, i, i)); });
            if (pass == 0) {
                m.each([&](int i, int j) {
                    t.factor[i * m.p + j] = m.at(1, i, j);
                    if (i == j) t.factor[m.p * m.p + i] = ::sqrt(m.at(0, i, i));
                });
            }
            m.transpose(3, 1);
            m.product(4, 3, 2);
            m.narrow(m.left, 4, 1.0);
            m.multiply(t.y);
        }
    }
};

// dw = (g - y k) h, h the inverse square root, k_ij = (r_i m_ij + r_j m_ji)/(r_i + r_j) where h = diag(1/r).
struct orthonormal_polar_back {
    template <class T, class M> METHOD static void run(const M& m, const Tall<T>& t) {
        constexpr int gram = 0, vectors = 1, columns = 2, inner = 3, middle = 4, root = 5, product = 6;
        const double* roots = t.factor + m.p * m.p;
        m.gram(gram, t.y, t.g);
        m.each([&](int i, int j) { m.at(vectors, i, j) = m.at(columns, j, i) = t.factor[i * m.p + j]; });
        m.product(inner, vectors, gram);
        m.product(middle, inner, columns);
        m.each([&](int i, int j) {
            double k = (roots[i] * m.at(middle, i, j) + roots[j] * m.at(middle, j, i)) / (roots[i] + roots[j]);
            m.at(gram, i, j) = -k / roots[j];
        });
        m.product(inner, gram, vectors);
        m.product(product, columns, inner);
        m.each([&](int i, int j) { m.at(inner, i, j) = m.at(vectors, i, j) / roots[i]; });
        m.product(root, columns, inner);
        m.narrow(m.left, root, 1.0);
        m.narrow(m.right, product, 1.0);
        m.combine(t.dx, t.g, t.y);
    }
};

// -- projections: u - x s, s = x^T u or its symmetric part -----------------------------------------------------------

template <bool half> struct OrthonormalProject {
    // target = source - x s, with s in slot 0.
    template <class T, class M> METHOD static void project(const M& m, const Tall<T>& t, const T* source, T* target) {
        m.gram(0, t.x, source);
        if (half) m.symmetrize(0);
        m.narrow(m.left, 0, -1.0);
        m.each([&](int i, int j) { m.right[i * m.p + j] = i == j ? T(1) : T(0); });
        m.combine(target, t.x, source);
    }
    template <class T, class M> METHOD static void run(const M& m, const Tall<T>& t) { project(m, t, t.u, t.y); }
};

struct orthonormal_project : OrthonormalProject<false> {};
struct orthonormal_project_half : OrthonormalProject<true> {};

// The adjoint is the projection itself; dx = -g s^T - u t^T, with s and t those of u and g.
template <bool half> struct OrthonormalProjectBack {
    template <class T, class M> METHOD static void run(const M& m, const Tall<T>& t) {
        OrthonormalProject<half>::project(m, t, t.g, t.du);
        m.gram(1, t.x, t.u);
        if (half) m.symmetrize(1);
        m.transpose(2, 1);
        m.transpose(3, 0);
        m.narrow(m.left, 2, -1.0);
        m.narrow(m.right, 3, -1.0);
        m.combine(t.dx, t.g, t.u);
    }
};

struct orthonormal_project_back : OrthonormalProjectBack<false> {};
struct orthonormal_project_half_back : OrthonormalProjectBack<true> {};

// -- all matrices of a batch ---------------------------------------------------------------------------------------

template <class Op, class T, class B>
METHOD void orthonormal(const B& block, char* shared, const T* g, const T* x, const T* u, T* y, double* factor, T* dx,
                        T* du, double* work, long long count, int blocks, int n, int p, int kept, int slots,
                        double number) {
    const Matrices<T, B> m(block, shared, work + block.index * slots * p * p, n, p);
    for (long long k = block.index; k < count; k += blocks) {
        const long long at = k * n * p;
        Op::template run<T>(
            m, Tall<T>{g + at, x + at, u + at, y + at, factor + k * kept * p, dx + at, du + at, number});
        block.sync();
    }
}

#define HOLONOMY_ORTHONORMAL(name, op, T)                                                                             \
    HOLONOMY_BLOCKS(name, 256, (const T* g, const T* x, const T* u, T* y, double* factor, T* dx, T* du, double* work, \
                                long long count, int blocks, int n, int p, int kept, int slots, double number),       \
                    holonomy::orthonormal<holonomy::op>(block, shared, g, x, u, y, factor, dx, du, work, count,       \
                                                        blocks, n, p, kept, slots, number))

}  // namespace holonomy
